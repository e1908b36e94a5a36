"""VQGAN+ and MaskBit's tokenizers and generators at the paper's sizes."""
