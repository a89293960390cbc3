"""What the model is wrong about with the greatest confidence."""

from biofuse.report.content import Column, Gallery, Item, Picture, Section, Table
from biofuse.report.curves import Predicted, worst_mistakes
from biofuse.report.material import Material
from biofuse.report.pictures import jpeg_uri

MISTAKES = 12
"""Most confident mistakes that are shown."""

SIDE = 176
"""Pixels of their images."""


def mistakes_section(material: Material, predicted: Predicted | None) -> Section:
    """Show what the model is wrong about with the greatest confidence."""
    title = "Most confident mistakes"
    if predicted is None:
        return Section(id="mistakes", title=title, paragraphs=("The model has not been tested yet.",))
    worst, album = worst_mistakes(predicted, MISTAKES), material.extras.test_images
    if not worst:
        return Section(id="mistakes", title=title, paragraphs=("There are none: every prediction is right.",))
    pictures = []
    for row, what, confidence in worst:
        image = None if album is None else album.image(predicted.ids[row])
        if image is not None:
            source, width, height = jpeg_uri(image, side=SIDE)
            caption = f"{what} ({confidence:.0%}): {predicted.ids[row]}"
            pictures.append(
                Picture(
                    source=source,
                    alternative=f"{predicted.ids[row]}, {what}",
                    caption=caption,
                    width=width,
                    height=height,
                )
            )
    said = ["What looks like a mistake may be a wrong label: these are the first images to look at again."]
    if len(pictures) < len(worst):
        said.append("Where no image is shown, it is not at hand.")
    items: list[Item] = []
    if pictures:
        items.append(Gallery(id="mistake-images", title="Images", pictures=tuple(pictures)))
    items.append(
        Table(
            id="mistake-list",
            caption=f"The {len(worst)} most confident mistakes",
            columns=(Column(title="sample"), Column(title="what is wrong"), Column(title="probability", number=True)),
            rows=tuple((predicted.ids[row], what, confidence) for row, what, confidence in worst),
        )
    )
    return Section(id="mistakes", title=title, paragraphs=tuple(said), items=tuple(items))
