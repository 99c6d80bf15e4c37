"""A vision tower in place of those of timm, which is not needed for anything else."""

from typing import Any

from torch import Tensor, nn
from transformers import AutoModel, Gemma3nVisionConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput


class PatchesConfig(Gemma3nVisionConfig):
    """Takes the place of Gemma3n's, which names an architecture of timm."""

    model_type = "conformance_patches"


class Patches(PreTrainedModel):
    """Embeds patches of four by four pixels: ``[pictures, hidden, height / 4, width / 4]``."""

    config_class = PatchesConfig
    main_input_name = "pixel_values"

    def __init__(self, config: PatchesConfig) -> None:
        super().__init__(config)
        self.vision_patches = nn.Conv2d(3, config.hidden_size, kernel_size=4, stride=4)
        self.post_init()

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutput:
        """The maps of features, as timm's towers return them."""
        return BaseModelOutput(last_hidden_state=self.vision_patches(pixel_values).tanh())


AutoModel.register(PatchesConfig, Patches)
