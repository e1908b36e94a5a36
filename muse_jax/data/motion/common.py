"""Common concepts: emoji of simple shapes and clear colors, few enough for a small network to learn."""

COMMON_CONCEPTS = frozenset(
    {
        # hearts and the sky
        *("red heart", "orange heart", "yellow heart", "green heart", "blue heart", "purple heart"),
        *("star", "sun", "crescent moon", "snowflake", "rainbow", "fire", "droplet"),
        # animals
        *("dog face", "cat face", "rabbit face", "bear", "panda", "frog", "tiger face", "lion", "pig face"),
        *("monkey face", "penguin", "bird", "duck", "fish", "whale", "octopus", "butterfly"),
        # food
        *("red apple", "banana", "strawberry", "cherries", "lemon", "tomato", "carrot", "mushroom", "pizza"),
        *("hamburger", "doughnut", "ice cream", "birthday cake"),
        # things
        *("automobile", "bus", "rocket", "sailboat", "helicopter", "balloon", "soccer ball", "basketball"),
        *("ghost", "robot", "house", "christmas tree", "sunflower", "cactus", "umbrella", "bell"),
        # faces
        *("grinning face", "winking face", "crying face", "angry face", "alien"),
    }
)
