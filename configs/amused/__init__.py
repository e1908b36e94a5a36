"""aMUSEd: fine-tuning of the published checkpoints."""
