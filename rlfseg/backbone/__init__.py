"""The recipe of the mini backbone: a small latent diffusion model of SD1.5's classes."""
