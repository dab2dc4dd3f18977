"""Networks that draw images from noise and labels: one file per family."""
