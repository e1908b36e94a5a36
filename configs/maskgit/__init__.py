"""MaskGIT on ImageNet, class-conditional, at the paper's sizes."""
