"""CogView2: hierarchical autoregressive transformers (Ding et al. 2022)."""
