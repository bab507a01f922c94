"""Training loss: L1, LPIPS, adaptively weighted PatchGAN and codebook terms."""
