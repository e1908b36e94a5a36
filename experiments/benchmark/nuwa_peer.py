"""Times nuwa-pytorch: prints seconds of each run and its parameters as JSON; see experiments.benchmark.nuwa.

Run by the Python of an environment that has nuwa-pytorch and torch; sizes come as JSON.
"""

import json
import sys
import time

import torch
from nuwa_pytorch import NUWA, VQGanVAE


def main() -> None:
    """Generates videos from random tokens of text."""
    sizes = json.loads(sys.argv[1])
    frames, side, width = sizes["grid"][0], sizes["grid"][1], sizes["width"]
    # A tokenizer of few channels: what is timed is the transformer.
    vae = VQGanVAE(dim=8, image_size=8 * side, num_layers=3, vq_codebook_size=sizes["codes"])
    model = NUWA(
        vae=vae,
        dim=width,
        text_num_tokens=1000,
        text_enc_depth=1,
        text_max_seq_len=sizes["text"],
        max_video_frames=frames,
        image_size=8 * side,
        dec_depth=sizes["layers"],
        dec_heads=width // 64,
        dec_dim_head=64,
        dec_reversible=False,
        attn_dropout=0.0,
        ff_mult=2,
        sparse_3dna_kernel_size=3,
        sparse_3dna_dilation=1,
    ).eval()
    text = torch.randint(1, 1000, (sizes["batch"], sizes["text"]))
    seconds = []
    for repeat in range(sizes["repeats"] + 1):
        start = time.perf_counter()
        with torch.no_grad():
            model.generate(text=text, num_frames=frames, cond_scale=2.0)
        if repeat:
            seconds.append(time.perf_counter() - start)
    count = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("vae"))
    print(json.dumps({"seconds": seconds, "parameters": count}))


if __name__ == "__main__":
    main()
