"""CogView2 at the paper's sizes."""
