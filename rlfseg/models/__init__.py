"""Networks: the UNet that is trained, the frozen codec around it, its cached latents, SAM."""
