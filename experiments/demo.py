"""The prompts of `make demo`."""

DEMO = [
    # (prompt, whether the concept was held out of training in this style or colour)
    ("a noto emoji of a red heart", True),
    ("two blue house icons on a light yellow background", False),
    ("a solid orange house icon on a dark blue background", False),
    ("a black cloud icon on a light orange background", True),
    ("a twemoji emoji of a crying face", False),
    ("a green tree icon on a light pink background", False),
    ("a pink star icon on a dark blue background", True),
    ("a fluent emoji of a mushroom", False),
]
LEGEND = "* Held out of training in this style or colour."
