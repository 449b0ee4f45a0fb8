"""The images that a cluster runs, made without a container engine. See docs/adr/0036-images.md."""
