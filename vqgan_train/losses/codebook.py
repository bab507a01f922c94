"""The codebook term: codes move to latents, latents commit to codes."""

from torch import Tensor
from torch.nn import functional as F


def codebook_loss(
    latents: Tensor, codes: Tensor, *, commitment_weight: float, legacy: bool
) -> Tensor:
    """Mean squared distance of latents and codes, once for each side's gradient.

    Args:
        latents: (B, D, H, W) encoder output.
        codes: (B, D, H, W) the codes that replaced them.
        commitment_weight: the paper's beta.
        legacy: put beta on the codebook's side, as taming-transformers does for the sake of the
            weights it released; otherwise on the encoder's side, as the paper says (van den Oord et
            al. 2017, equation 3).

    Returns:
        () float32.
    """
    latents, codes = latents.float(), codes.float()
    codebook_side = F.mse_loss(codes, latents.detach())
    encoder_side = F.mse_loss(latents, codes.detach())
    if legacy:
        return encoder_side + commitment_weight * codebook_side
    return codebook_side + commitment_weight * encoder_side
