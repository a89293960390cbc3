"""Options are declared once, refused by name, and shown wherever they are taken."""

import inspect
import pickle
from typing import Annotated, Literal

import pytest
from pydantic import Field

from biofuse.core.errors import BioFuseError
from biofuse.core.options import Option, Options, accepts, divide


class Colours(Options):
    """Options of a test."""

    paint: Annotated[Literal["red", "blue"], Option(panel="Advanced")] = Field(default="red", description="The paint.")
    coats: Annotated[int | None, Option(panel="Data", shown="enough")] = Field(
        default=None, ge=1, description="How often."
    )
    secret: int = Field(default=3, description="Internal.")


class Brushes(Options):
    """Other options."""

    width: Annotated[str, Option(panel="Search", names=lambda: ("broad", "fine"))] = Field(
        default="fine", description="Of the brush."
    )


def test_offers_stand_panel_by_panel_and_leave_out_what_is_internal():
    first, second = Colours.offers()
    assert (first.name, first.flag, first.default, first.choices, first.type_words) == (
        "coats", "--coats", "enough", (), "int",
    )  # fmt: skip
    assert (second.name, second.default, second.choices) == ("paint", "red", ("red", "blue"))
    assert second.type_words == '{"red", "blue"}'
    assert Brushes.offers()[0].choices == ("broad", "fine")


def test_a_name_or_a_value_that_does_not_exist_is_refused_with_what_there_is():
    with pytest.raises(BioFuseError, match="no option 'pain'") as caught:
        Colours(pain="red")
    assert "Did you mean 'paint'?" in caught.value.remedy
    with pytest.raises(BioFuseError, match="`paint=` cannot be 'green': Input should be 'red' or 'blue'"):
        Colours(paint="green")
    with pytest.raises(BioFuseError, match="`coats=` cannot be 0: "):
        Colours().but(coats=0)


def test_what_is_given_by_name_wins_over_the_object():
    assert Colours.of(None, {}) == Colours()
    given = Colours(paint="blue", coats=2)
    assert Colours.of(given, {}) is given
    assert Colours.of(given, {"coats": 5}) == Colours(paint="blue", coats=5)
    assert (given.coats, pickle.loads(pickle.dumps(given))) == (2, given)  # noqa: S301
    with pytest.raises(BioFuseError, match="no option 'brush'"):
        Colours.of(given, {"brush": 1})


def test_names_are_shared_out_among_the_objects_they_belong_to():
    assert divide({"width": "fine", "coats": 1}, Colours, Brushes) == ({"coats": 1}, {"width": "fine"})
    with pytest.raises(BioFuseError, match="no option 'secret'"):
        divide({"secret": 1}, Colours, Brushes)


def test_what_takes_options_shows_them_in_its_signature_and_its_documentation():
    @accepts(Colours, Brushes)
    def draw(picture, *, width="broad", **chosen):
        """Draw.

        Parameters
        ----------
        picture : str
        **chosen
            Whatever
            there is.

        Returns
        -------
        None
        """
        return picture, width, chosen

    signature = inspect.signature(draw)
    assert list(signature.parameters) == ["picture", "width", "coats", "paint"]
    assert (signature.parameters["width"].default, signature.parameters["paint"].default) == ("broad", "red")
    shown = inspect.getdoc(draw)
    assert "**chosen" not in shown
    assert "Whatever" not in shown
    assert "coats : int, default enough\n    How often." in shown
    assert 'paint : {"red", "blue"}, default "red"\n    The paint.\n\nReturns' in shown
    assert draw("a", paint="blue") == ("a", "broad", {"paint": "blue"})


def test_a_class_shows_them_too():
    @accepts(Brushes)
    class Easel:
        """An easel.

        Parameters
        ----------
        **chosen
            Fields.
        """

        def __init__(self, **chosen):
            self.chosen = chosen

    assert list(inspect.signature(Easel).parameters) == ["width"]
    assert 'width : {"broad", "fine"}, default "fine"' in Easel.__doc__
