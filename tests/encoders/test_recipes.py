"""The preprocessing of every card gives the pixels of an implementation that is not BioFuse's, on real images.

The recipes are written out here from the authors' own (a processor class of transformers, open_clip's or timm's
transform, torchvision as a README writes it), with their numbers; nothing is taken from the cards.
"""

import dataclasses
import functools
import importlib.util
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

from biofuse.data.decoding import DecodePolicy, decode
from biofuse.encoders import get_card, list_cards

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
GENBIO = ((0.697, 0.575, 0.728), (0.188, 0.240, 0.187))
H_OPTIMUS = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
BICUBIC, BILINEAR = InterpolationMode.BICUBIC, InterpolationMode.BILINEAR

Prepare = Callable[[Image.Image], torch.Tensor]

TORCHVISION = "torchvision transforms, written out from the authors' recipe"

ODD = "an odd crop is placed as torchvision does, up to one pixel off"

POOL = [
    each for card in list_cards() if "starter" not in card.pools for each in (card, *map(card.variant, card.variants))
]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One implementation, the encoders it is for, and how many of 255 grey levels a pixel may differ by.

    Equality up to the rounding of floating-point numbers is asked of all but those that say otherwise.
    """

    says: str
    encoders: tuple[str, ...]
    make: Callable[[], Prepare]
    most: float = 0.001
    on_average: float | None = None
    only: Callable[[str, Image.Image], bool] | None = None


def torchvision(size, crop, interpolation, numbers):
    steps = [Resize(size, interpolation=interpolation)] if size else []
    return lambda: Compose([*steps, *([CenterCrop(crop)] if crop else []), ToTensor(), Normalize(*numbers)])


def processor(name, **settings):
    """Return transformers' processor.

    The backend is Pillow's: the default one resizes 8-bit tensors by torch, which rounds grey levels otherwise.
    """

    def make():
        import transformers

        theirs = getattr(transformers, f"{name}Pil")(**settings)
        return lambda picture: theirs(picture, return_tensors="pt")["pixel_values"][0]

    return make


def placed_by_torchvision(name, **settings):
    """Return transformers' processor, its crop placed by torchvision's rule, which CLIP's own code uses.

    transformers rounds half a pixel down where torchvision rounds it to even: one pixel apart for some images with an
    odd margin; see the test of that.
    """

    def make():
        import transformers

        theirs = getattr(transformers, f"{name}Pil")(**settings | {"do_center_crop": False})
        crop = settings.get("crop_size")

        def prepare(picture):
            whole = theirs(picture, return_tensors="pt")["pixel_values"][0]
            return whole if crop is None else CenterCrop((crop["height"], crop["width"]))(whole)

        return prepare

    return make


def settings(numbers, size, *, crop=None, resample=Image.Resampling.BICUBIC):
    cropping = {} if crop is None else {"do_center_crop": True, "crop_size": {"height": crop, "width": crop}}
    return {"size": size, "resample": resample, "image_mean": numbers[0], "image_std": numbers[1], **cropping}


def of_open_clip(size=224):
    from open_clip.transform import image_transform

    return image_transform(size, is_train=False, mean=OPENAI[0], std=OPENAI[1])


def of_timm(name):
    """timm's own transform for the weights of that name; those of the other encoders of a row are configured alike."""

    def make():
        import timm

        return timm.data.create_transform(**timm.data.resolve_data_config(timm.get_pretrained_cfg(name).to_dict()))

    return make


def with_trunks(*names):
    return tuple(vector for name in names for vector in (name, f"{name}:trunk"))


def of_dinov3():
    """The class has no backend of Pillow's: it resizes by torch, after scaling."""
    import transformers

    theirs = transformers.DINOv3ViTImageProcessor()
    return lambda picture: theirs(picture, return_tensors="pt")["pixel_values"][0]


def of_retfounds_notebook():
    """As the authors' notebook writes it: each channel of each image to mean 0 and standard deviation 1."""

    def prepare(picture):
        pixels = np.array(picture.resize((224, 224))) / 255.0
        for channel in range(3):
            part = pixels[..., channel]
            pixels[..., channel] = (part - part.mean()) / part.std()
        return torch.from_numpy(pixels).permute(2, 0, 1).float()

    return prepare


def of_medsam():
    """As the authors' inference script writes it."""
    from skimage.transform import resize

    def prepare(picture):
        pixels = resize(np.asarray(picture), (1024, 1024), order=3, preserve_range=True, anti_aliasing=True)
        pixels = pixels.astype(np.uint8).astype(np.float64)
        spread = np.clip(pixels.max() - pixels.min(), 1e-8, None)
        return torch.from_numpy((pixels - pixels.min()) / spread).permute(2, 0, 1).float()

    return prepare


def of_cellpose():
    """As the authors describe it: in each channel 0 is the 1st percentile, and 1 the 99th; here of 256 pixels."""
    smaller = Compose([Resize(256, InterpolationMode.BILINEAR), CenterCrop(256)])

    def prepare(picture):
        pixels = np.array(smaller(picture)).astype(np.float64)
        low, high = np.percentile(pixels, (1, 99), axis=(0, 1))
        return torch.from_numpy((pixels - low) / (high - low)).permute(2, 0, 1).float()

    return prepare


def of_torchxrayvision(size):
    """As the package does it: XRayCenterCrop, then its models' fix_resolution; here for each of three channels."""

    def prepare(picture):
        pixels = (2 * (np.asarray(picture).astype(np.float32).transpose(2, 0, 1) / 255) - 1) * 1024
        height, width = pixels.shape[1:]
        side = min(height, width)
        top, left = height // 2 - side // 2, width // 2 - side // 2
        square = torch.from_numpy(pixels[:, top : top + side, left : left + side].copy())[None]
        return torch.nn.functional.interpolate(square, size=(size, size), mode="bilinear", antialias=True)[0]

    return lambda: prepare


def of_flair():
    """As the authors' preprocess_image: a canvas of 512 pixels, the image at its top left corner."""

    def prepare(picture):
        pixels = torch.from_numpy(np.asarray(picture).astype(np.float32).transpose(2, 0, 1) / 255)[None]
        scale = max(pixels.shape[-2:]) / 512
        sides = tuple(max(1, int(side / scale)) for side in pixels.shape[-2:])
        pixels = torch.nn.functional.interpolate(pixels, size=sides, mode="bilinear", antialias=True)
        return torch.nn.functional.pad(pixels, (0, 512 - sides[1], 0, 512 - sides[0]))[0]

    return prepare


def is_grey(picture):
    """Tell whether an image has one channel to see, and more than one grey level in it."""
    pixels = np.asarray(picture)
    return bool((pixels == pixels[..., :1]).all()) and pixels.std() > 4


def of_curia():
    """As CuriaImageProcessor: one channel, bicubic to 512 x 512, mean 0 and deviation 1; here for each of three."""

    def prepare(picture):
        pixels = torch.from_numpy(np.array(picture)[..., 0]).float()[None, None]
        resized = torch.nn.functional.interpolate(
            pixels, size=(512, 512), mode="bicubic", align_corners=False, antialias=True
        )[0, 0]
        return ((resized - resized.mean()) / resized.std()).expand(3, -1, -1)

    return prepare


EVA_X = ((0.49185243,) * 3, (0.28509309,) * 3)
AS_IT_IS = ((0.0,) * 3, (1.0,) * 3)
C_RADIO = ("c_radio_v3_b", "c_radio_v3_l", "c_radio_v3_h", "c_radio_v4_so400m", "c_radio_v4_h")


def of_retfound_green():
    """As the authors' README writes it, for an image that is a tensor of bytes."""
    from torchvision.transforms import v2

    theirs = v2.Compose(
        [v2.Resize((392, 392), antialias=True), v2.ToDtype(torch.float32, scale=True), v2.Normalize((0.5,), (0.5,))]
    )
    return lambda picture: theirs(torch.from_numpy(np.array(picture)).permute(2, 0, 1))


CLIPS = (
    *("biomedclip", "bmc_clip_cf", "medpmc_clip_l14", "quiltnet_b32", "quiltnet_b16", "quiltnet_b16_pmb"),
    *("fetalclip", "eyeclip"),
)
CLIPS_OF_TIMM = ("clip_vit_l14", "dfn_clip_l14", "laion_clip_h14", "metaclip_b16")
RADIODINO = ("radiodino_s16", "radiodino_b16")
DINOBLOOM = ("dinobloom_s", "dinobloom_b", "dinobloom_l", "dinobloom_g")
REDDINO = ("reddino_small", "reddino_base", "reddino_large")
ENDOVIT = ((0.3464, 0.2280, 0.2228), (0.2520, 0.2128, 0.2093))
KAIKO = ("kaiko_vits16", "kaiko_vits8", "kaiko_vitb16", "kaiko_vitb8", "kaiko_vitl14")
DINOV2 = ("dinov2_small", "dinov2_base", "dinov2_large", "dinov2_giant", "dinov2_g")
DINOV3 = ("dinov3_small", "dinov3_base", "dinov3_large", "dinov3_huge_plus", "dinov3_7b")
TIPS = ("tipsv2_b14", "tipsv2_l14", "tipsv2_so400m14", "tipsv2_g14")
RETFOUND = (
    *(f"retfound_mae_{data}" for data in ("cfp", "oct", "meh", "sh")),
    *(f"retfound_dinov2_{data}" for data in ("meh", "sh")),
)
PANDERM = (IMAGENET[0], (0.228, 0.224, 0.225))
HIBOU = ((0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816))

RECIPES = (
    Recipe(
        "open_clip image_transform",
        (*with_trunks(*CLIPS), "omiclip", "pathgen_clip", "unimed_clip_b16"),
        of_open_clip,
    ),
    Recipe("open_clip image_transform", ("unimed_clip_l14",), functools.partial(of_open_clip, 336)),
    Recipe(
        f"transformers CLIPImageProcessor; {ODD}",
        ("clip_vit_b32", "clip_vit_b32:trunk"),
        placed_by_torchvision("CLIPImageProcessor", **settings(OPENAI, {"shortest_edge": 224}, crop=224)),
    ),
    Recipe(
        "transformers CLIPImageProcessor",
        ("pubmedclip", "pubmedclip:trunk", "plip", "plip:trunk"),
        processor("CLIPImageProcessor", **settings(OPENAI, {"shortest_edge": 224}, crop=224)),
    ),
    Recipe(
        "transformers CLIPImageProcessor",
        ("monet", "monet:trunk"),
        processor("CLIPImageProcessor", **settings(IMAGENET, {"shortest_edge": 224}, crop=224)),
    ),
    Recipe(
        "transformers CLIPImageProcessor",
        ("isight",),
        processor("CLIPImageProcessor", **settings(OPENAI, {"shortest_edge": 336}, crop=336)),
    ),
    Recipe(
        "transformers BitImageProcessor",
        ("hibou_b", "hibou_l"),
        processor("BitImageProcessor", **settings(HIBOU, {"shortest_edge": 224}, crop=224)),
    ),
    Recipe(
        "transformers ViTImageProcessor",
        ("phikon",),
        processor(
            "ViTImageProcessor", size={"height": 224, "width": 224}, image_mean=IMAGENET[0], image_std=IMAGENET[1]
        ),
    ),
    Recipe(
        "transformers BitImageProcessor",
        ("rad_dino",),
        processor("BitImageProcessor", **settings(((0.5307,) * 3, (0.2583,) * 3), {"shortest_edge": 518}, crop=518)),
    ),
    Recipe(
        "transformers BlipImageProcessor",
        ("chexagent",),
        processor("BlipImageProcessor", **settings(OPENAI, {"height": 448, "width": 448})),
    ),
    Recipe(
        "transformers SiglipImageProcessor",
        ("medsiglip_448",),
        processor("SiglipImageProcessor", **settings(HALF, {"height": 448, "width": 448})),
    ),
    *(
        Recipe(
            "transformers SiglipImageProcessor",
            encoders,
            processor(
                "SiglipImageProcessor",
                **settings(HALF, {"height": size, "width": size}, resample=Image.Resampling.BILINEAR),
            ),
        )
        for size, encoders in (
            (224, ("siglip2_base",)),
            (384, ("siglip2_large_384", "siglip2_giant_384", "siglip2_so400m")),
            (512, ("siglip2_so400m_512", "siglip2_base_512", "siglip2_large_512")),
        )
    ),
    *(
        Recipe(TORCHVISION, (name,), torchvision((size, size), None, BILINEAR, HALF))
        for name, size in (("pe_core_b16", 224), ("pe_core_l14_336", 336), ("pe_core_g14_448", 448))
    ),
    *(
        Recipe("timm create_transform, from its pretrained configuration", encoders, of_timm(tag))
        for tag, encoders in (
            ("vit_large_patch14_clip_224.openai", (*with_trunks(*CLIPS_OF_TIMM), "aimv2_large_224")),
            ("eva02_large_patch14_clip_336.merged2b", with_trunks("clip_vit_l14_336", "eva02_clip_l14_336")),
        )
    ),
    Recipe(
        "transformers DINOv3ViTImageProcessor; pixels are scaled before they are resized there, so grey levels are not "
        "rounded",
        (*DINOV3, *(f"dinov3_cnx_{size}" for size in ("tiny", "small", "base", "large"))),
        of_dinov3,
        most=1.5,
    ),
    Recipe(TORCHVISION, ("genbio_pathfm",), torchvision((224, 224), None, BILINEAR, GENBIO)),
    Recipe(TORCHVISION, ("medimageinsight",), torchvision((480, 480), None, BICUBIC, IMAGENET)),
    Recipe(TORCHVISION, TIPS, torchvision((448, 448), None, BILINEAR, AS_IT_IS)),
    Recipe(
        f"{TORCHVISION}; images of 256 pixels only",
        ("openphenom",),
        torchvision(None, None, BICUBIC, AS_IT_IS),
        only=lambda _, picture: picture.size == (256, 256),
    ),
    Recipe(
        "the authors' processor, written out; grey images only, and grey levels are neither rounded nor cut off there",
        ("curia", "curia_2"),
        of_curia,
        most=0.7,
        on_average=0.03,
        only=lambda _, picture: is_grey(picture),
    ),
    Recipe(TORCHVISION, ("franca_vitl14",), torchvision(256, 224, BICUBIC, IMAGENET)),
    Recipe(TORCHVISION, tuple(f"{name}:probe" for name in DINOV3), torchvision(256, 224, BICUBIC, IMAGENET)),
    Recipe(TORCHVISION, ("panderm_large", "panderm_base"), torchvision(256, 224, BILINEAR, PANDERM)),
    Recipe(
        "numpy and Pillow, as the authors' notebook has it",
        tuple(f"{name}:features" for name in RETFOUND),
        of_retfounds_notebook,
        only=lambda _, picture: all(len(np.unique(channel)) > 1 for channel in np.moveaxis(np.asarray(picture), 2, 0)),
    ),
    Recipe(TORCHVISION, ("conch", "conch:projected"), torchvision(448, 448, BICUBIC, OPENAI)),
    Recipe(TORCHVISION, ("conch_v1_5",), torchvision(448, 448, BILINEAR, IMAGENET)),
    Recipe(
        TORCHVISION,
        ("uni", "uni2_h", "ctranspath", "chief", "openmidnight", "mstar", "pathorchestra"),
        torchvision(224, 224, BILINEAR, IMAGENET),
    ),
    Recipe(TORCHVISION, (*DINOBLOOM, *REDDINO, *RADIODINO), torchvision((224, 224), None, BILINEAR, IMAGENET)),
    Recipe(TORCHVISION, ("lemonfm",), torchvision((224, 224), None, BICUBIC, IMAGENET)),
    Recipe(TORCHVISION, ("endovit", "endovit:mean"), torchvision((224, 224), None, BILINEAR, ENDOVIT)),
    Recipe(
        "torchvision transforms of a tensor, as the authors' README has it; grey levels are rounded otherwise there",
        ("retfound_green",),
        of_retfound_green,
        most=2.5,
    ),
    Recipe(TORCHVISION, ("musk", "musk:cls"), torchvision(384, 384, BICUBIC, HALF)),
    Recipe(TORCHVISION, ("eva_x_tiny", "eva_x_small", "eva_x_base"), torchvision(256, 224, BICUBIC, EVA_X)),
    Recipe(TORCHVISION, ("biovil", "biovil:projected"), torchvision(512, 480, BILINEAR, AS_IT_IS)),
    Recipe(TORCHVISION, ("biovil_t", "biovil_t:projected"), torchvision(512, 448, BILINEAR, AS_IT_IS)),
    Recipe(
        "transformers CLIPImageProcessor",
        C_RADIO,
        processor("CLIPImageProcessor", do_center_crop=False, **settings(OPENAI, {"height": 224, "width": 224})),
    ),
    *(
        Recipe(
            "torchxrayvision XRayCenterCrop and its models' own resizing; grey levels are not rounded there",
            (name,),
            of_torchxrayvision(size),
            most=1.01,
        )
        for name, size in (("txrv_densenet121", 224), ("txrv_resnet50", 512))
    ),
    Recipe(
        "FLAIR's preprocess_image, written out; grey levels are not rounded there",
        ("flair", "flair:projected"),
        of_flair,
        most=1.01,
    ),
    Recipe(
        TORCHVISION, ("virchow", "virchow2", "gpfm", "keep", "keep:trunk"), torchvision(224, 224, BICUBIC, IMAGENET)
    ),
    Recipe(TORCHVISION, ("prov_gigapath", *DINOV2, *RETFOUND), torchvision(256, 224, BICUBIC, IMAGENET)),
    Recipe(TORCHVISION, (*KAIKO, "midnight_12k"), torchvision(224, 224, BILINEAR, HALF)),
    Recipe(TORCHVISION, ("h0_mini", "h0_mini:cls"), torchvision(224, 224, BICUBIC, H_OPTIMUS)),
    Recipe(TORCHVISION, ("ark_plus", "ark_plus:trunk"), torchvision((768, 768), None, BICUBIC, IMAGENET)),
    Recipe(
        f"{TORCHVISION}; images of 224 pixels only",
        ("h_optimus_0", "h_optimus_1"),
        torchvision(None, None, BICUBIC, H_OPTIMUS),
        only=lambda _, picture: picture.size == (224, 224),
    ),
    Recipe(
        "numpy and torchvision, written out from the authors' description",
        ("cellpose_sam",),
        of_cellpose,
        only=lambda name, _: name in {"coffee.png", "ihc.png", "astronaut.png"},
    ),
    Recipe(
        "scikit-image, as the authors' script does; grey levels differ by less than 2 on average",
        ("medsam",),
        of_medsam,
        # scikit-image blurs before it shrinks and interpolates by splines; Pillow widens its cubic filter instead.
        most=255,
        on_average=2,
        # It takes seconds for one image.
        only=lambda name, _: name in {"coffee.png", "coins.png", "ihc.png", "microaneurysms.png"},
    ),
)

PACKAGED = {
    "skimage": (
        "astronaut.png camera.png cell.png chelsea.png chessboard_GRAY.png clock_motion.png coffee.png coins.png "
        "color.png horse.png ihc.png logo.png microaneurysms.png moon.png multipage.tif no_time_for_that_tiny.gif "
        "page.png phantom.png rocket.jpg text.png"
    ),
    "sklearn": "china.jpg flower.jpg",
}
"""Photographs, drawings, tissue, a cell, an eye; grey, palette, with transparency; from 10 x 15 to 660 x 550 pixels."""


def packaged_files():
    for package, names in PACKAGED.items():
        folder = Path(importlib.util.find_spec(package).origin).parent
        found = {path.name: path for path in folder.rglob("*") if path.suffix in {".png", ".jpg", ".gif", ".tif"}}
        yield from (found[name] for name in names.split() if name in found)


def saved(picture, **options):
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", **options)
    return buffer.getvalue()


def independent(content):
    """Decode as Pillow does it alone, where it can: 16 bits are stretched, transparency shows white."""
    picture = Image.open(io.BytesIO(content))
    if picture.mode.startswith("I"):
        levels = np.asarray(picture).astype(np.float64)
        levels = np.rint((levels - levels.min()) / (levels.max() - levels.min()) * 255)
        return Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    if "A" in picture.mode or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


@functools.cache
def packaged():
    """Return the name, the file and Pillow's decoding of every image, all of them real."""
    images = [(path.name, path.read_bytes()) for path in packaged_files()]
    photograph, moon = (Image.open(io.BytesIO(dict(images)[name])) for name in ("rocket.jpg", "moon.png"))
    images += [
        ("tall", saved(photograph.crop((200, 0, 237, 427)))),
        ("wide", saved(photograph.crop((0, 100, 640, 163)))),
        ("few colours", saved(photograph.convert("P", palette=Image.Palette.ADAPTIVE, colors=32))),
        ("16-bit", saved(Image.fromarray(np.asarray(moon).astype(np.uint16) * 171 + 300))),
        ("one pixel high", saved(photograph.crop((300, 200, 331, 201)))),
        ("exactly 224", saved(photograph.crop((100, 100, 324, 324)))),
        ("exactly 256", saved(photograph.crop((100, 100, 356, 356)))),
    ]
    return [(name, content, independent(content)) for name, content in images]


@functools.cache
def shared():
    files = [path for kind in ("brain-mri", "blood-cells") for path in sorted((SHARED / kind).rglob("*.[jp][pn]*g"))]
    chosen = [content.read_bytes() for content in files[:: max(1, len(files) // 12)][:12]]
    return [(f"shared {number}", content, independent(content)) for number, content in enumerate(chosen)]


def compare(recipe, images):
    card = get_card(recipe.encoders[0])
    theirs = recipe.make()
    spread = min(card.preprocessing.std)
    if card.preprocessing.value_range == "standard":
        spread = 1 / 255  # what is compared has no grey levels any more
    seen = 0
    for name, content, picture in images:
        if recipe.only is not None and not recipe.only(name, picture):
            continue
        prepared = card.preprocessing.apply(decode(content, DecodePolicy(), description=name))
        ours = card.preprocessing.normalise(torch.from_numpy(np.array(prepared))[None])[0]
        levels = (ours - theirs(picture)).abs() * spread * 255
        assert levels.max() <= recipe.most, (name, float(levels.max()))
        assert recipe.on_average is None or levels.mean() < recipe.on_average, (name, float(levels.mean()))
        seen += 1
    return seen


def names_of(recipe):
    return recipe.encoders[0]


def test_the_images_are_real_and_of_all_kinds():
    modes = {Image.open(io.BytesIO(content)).mode for _, content, _ in packaged()}
    assert {"L", "RGB", "RGBA", "P", "I;16"} <= modes
    assert len(packaged()) >= 24
    sizes = [picture.size for *_, picture in packaged()]
    assert min(min(size) for size in sizes) < 16
    assert any(height > 8 * width for width, height in sizes)


@pytest.mark.parametrize(("name", "content", "picture"), packaged(), ids=[name for name, *_ in packaged()])
def test_images_are_decoded_as_pillow_decodes_them(name, content, picture):
    assert np.array_equal(decode(content, DecodePolicy(), description=name), np.asarray(picture))


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(each, marks=[pytest.mark.slow] if each.on_average else [], id=names_of(each)) for each in RECIPES],
)
def test_preprocessing_equals_an_independent_implementation(recipe):
    assert compare(recipe, packaged()) >= (24 if recipe.only is None else 1)


def test_transformers_sets_a_crop_at_most_one_pixel_off():
    import transformers

    known = settings(OPENAI, {"shortest_edge": 224}, crop=224)
    cropped, whole = (
        transformers.CLIPImageProcessorPil(**known | {"do_center_crop": crops}) for crops in (True, False)
    )
    apart = set()
    for _, _, picture in packaged():
        image = whole(picture, return_tensors="pt")["pixel_values"][0]
        height, width = image.shape[1:]
        top, left = (height - 224) // 2, (width - 224) // 2
        theirs = cropped(picture, return_tensors="pt")["pixel_values"][0]
        assert torch.equal(theirs, image[:, top : top + 224, left : left + 224])
        apart.add(max(round((height - 224) / 2) - top, round((width - 224) / 2) - left))
    assert apart == {0, 1}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if recipe.only is None], ids=names_of)
def test_preprocessing_equals_an_independent_implementation_on_medical_images(recipe):
    if not shared():
        pytest.skip("the shared medical images are not beside this checkout")
    assert compare(recipe, shared()) == 12


@pytest.mark.parametrize("recipe", RECIPES, ids=names_of)
def test_all_encoders_of_a_recipe_have_one_preprocessing(recipe):
    assert len({get_card(name).preprocessing for name in recipe.encoders}) == 1


def test_the_cards_say_what_is_compared_here():
    said = {card.name: card.compared.preprocessing for card in POOL if card.compared.preprocessing}
    assert {name: recipe.says for recipe in RECIPES for name in recipe.encoders} == said


@pytest.mark.parametrize("card", POOL, ids=lambda card: card.name)
def test_a_preprocessing_without_an_independent_source_is_marked_unverified(card):
    if not card.compared.preprocessing:
        assert card.facts["preprocessing"].source == "unverified"
