"""aMUSEd: published weights of a Muse-like model."""
