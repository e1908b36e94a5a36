"""What `make demo` draws."""

DEMO = [
    # (prompt, whether the data holds this concept in this style for testing alone)
    ("a noto emoji of a red heart", True),
    ("a fluent emoji of a sunflower", False),
    ("a fluent emoji of a pizza", True),
    ("a noto emoji of a grinning face", False),
    ("an emojione emoji of a crown", True),
    ("a twemoji emoji of a red apple", False),
    ("a noto emoji of a cactus", True),
    ("a twemoji emoji of a cat face", False),
]
LEGEND = "* The concept in this style was never seen in training."
