"""A picture for TensorBoard's cards: they are 350 pixels wide and leave out pixels of what is wider."""

from PIL import Image, ImageDraw

from dynalens.pictures.drawing import PAPER, Colour

WIDTH = 350
TEXT, LINE, GAP, FRAME = 11, 14, 5, 2
"""Size of letters, height of a line, gap between cells and width of frames, in pixels of the card."""


class Card:
    """Lines and letters in pixels of the card, and pictures with ``scale`` times as many.

    A browser that shows it in a card takes each ``scale``-th pixel: letters are then as sharp as they were drawn, and
    at its actual size the pictures have all their detail.

    Args:
        height: In pixels of the card.
        scale: Pixels of the picture to one of the card.
        width: In pixels of the card; TensorBoard shows all of it at the actual size only, where it is wider.
    """

    def __init__(self, height: int, scale: int = 2, width: int = WIDTH) -> None:
        self.scale = scale
        self._ground = Image.new("RGB", (width, height), PAPER)
        self.draw = ImageDraw.Draw(self._ground)
        self._pictures: list[tuple[Image.Image, tuple[int, int]]] = []

    def paste(self, picture: Image.Image, position: tuple[int, int], frame: Colour | None = None) -> None:
        """Place a picture, ``scale`` times as large as its room on the card, perhaps with a frame around it."""
        x, y = position
        if frame is not None:
            width, height = picture.width // self.scale, picture.height // self.scale
            box = (x - FRAME, y - FRAME, x + width + FRAME - 1, y + height + FRAME - 1)
            self.draw.rectangle(box, outline=frame, width=FRAME)
        self._pictures.append((picture, (x * self.scale, y * self.scale)))

    def image(self) -> Image.Image:
        """Return the whole, ``scale`` times as large as the card."""
        size = (self._ground.width * self.scale, self._ground.height * self.scale)
        picture = self._ground.resize(size, Image.Resampling.NEAREST)
        for small_picture, position in self._pictures:
            picture.paste(small_picture, position)
        return picture
