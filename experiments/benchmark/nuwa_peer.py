"""Times nuwa-pytorch: prints seconds of each run and its parameters as JSON; see experiments.benchmark.nuwa.

Run by the Python of an environment that has nuwa-pytorch and torch; sizes come as JSON.
"""

import json
import sys
import time


def main() -> None:
    """Generates videos from random tokens of text."""
    import torch
    from nuwa_pytorch import NUWA, VQGanVAE

    sizes = json.loads(sys.argv[1])
    frames, side, width = sizes["grid"][0], sizes["grid"][1], sizes["width"]
    # A tokenizer of few channels: what is timed is the transformer.
    vae = VQGanVAE(
        dim=16,
        image_size=8 * side,
        num_layers=3,
        vq_codebook_size=sizes["codes"],
        vq_codebook_dim=64,
        use_vgg_and_gan=False,
    )
    model = NUWA(
        vae=vae,
        dim=width,
        text_num_tokens=1000,
        text_enc_depth=1,
        enc_reversible=True,
        text_max_seq_len=sizes["text"],
        max_video_frames=frames,
        dec_depth=sizes["layers"],
        dec_heads=width // 64,
        dec_dim_head=64,
        sparse_3dna_kernel_size=3,
    ).eval()
    text = torch.randint(1, 1000, (sizes["batch"], sizes["text"]))
    seconds = []
    for _ in range(sizes["repeats"]):  # without a first call: nothing is compiled
        start = time.perf_counter()
        with torch.no_grad():
            model.generate(text=text, num_frames=frames, cond_scale=2.0)
        seconds.append(time.perf_counter() - start)
    count = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("vae"))
    print(json.dumps({"seconds": seconds, "parameters": count}))


if __name__ == "__main__":
    main()
