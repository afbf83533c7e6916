"""A picture for TensorBoard's cards. These are 350 pixels wide, and leave out pixels of wider pictures."""

from PIL import Image, ImageDraw

from dynalens.pictures.drawing import PAPER, Colour

WIDTH = 350
TEXT, LINE, GAP, FRAME = 12, 14, 5, 2
"""Size of letters, height of a line, gap between cells and width of frames, in pixels of the card."""


class Card:
    """A picture with letters in pixels of the card, and photographs with ``scale`` times as many.

    A browser that shows it in a card takes each ``scale``-th pixel, so letters are as sharp as they were drawn. At its
    actual size, photographs have all their detail.

    Args:
        height: Height in pixels of the card.
        scale: Number of pixels of the picture for one pixel of the card.
        width: Width in pixels of the card. TensorBoard shows a wider picture whole at its actual size only.
    """

    def __init__(self, height: int, scale: int = 2, width: int = WIDTH) -> None:
        self.scale = scale
        self._ground = Image.new("RGB", (width, height), PAPER)
        self.draw = ImageDraw.Draw(self._ground)
        self._pictures: list[tuple[Image.Image, tuple[int, int]]] = []

    def paste(self, picture: Image.Image, position: tuple[int, int], frame: Colour | None = None) -> None:
        """Place a picture, ``scale`` times as large as its room on the card. A frame is optional."""
        x, y = position
        if frame is not None:
            width, height = picture.width // self.scale, picture.height // self.scale
            box = (x - FRAME, y - FRAME, x + width + FRAME - 1, y + height + FRAME - 1)
            self.draw.rectangle(box, outline=frame, width=FRAME)
        self._pictures.append((picture, (x * self.scale, y * self.scale)))

    def image(self) -> Image.Image:
        """Return the picture, ``scale`` times as large as the card."""
        size = (self._ground.width * self.scale, self._ground.height * self.scale)
        picture = self._ground.resize(size, Image.Resampling.NEAREST)
        for small_picture, position in self._pictures:
            picture.paste(small_picture, position)
        return picture
