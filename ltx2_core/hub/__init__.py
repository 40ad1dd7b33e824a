"""The files of models on this machine and on the Hugging Face Hub, and the catalogue of named models."""
