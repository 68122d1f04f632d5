"""Drawn radiographs: X-rays through a limb made of elliptical tubes, onto a detector, onto a screen.

`study` draws; what it draws with, in the order of the rays: `solids`, `bones`, `limbs`; `projection`, `attenuation`;
`fractures`, `hardware`, `distractors`; `exposure`. `noise` is smooth randomness for any of them.
"""

from fracture_ml.demo.drawing.study import DRAWN_BODY_PARTS, DrawnRadiograph, NotDrawable, draw_study

__all__ = ["DRAWN_BODY_PARTS", "DrawnRadiograph", "NotDrawable", "draw_study"]
