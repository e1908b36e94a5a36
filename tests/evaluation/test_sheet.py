import weakref

import numpy as np

from muse_jax.evaluation.sheet import IMAGES, Sheet


def test_best_and_worst_are_by_the_distance_to_the_nearest_real_image():
    rng = np.random.default_rng(0)
    real, features = rng.normal(size=(9, 4)), rng.normal(0, 2, size=(50, 4))
    images = np.arange(50, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    sheet = Sheet(real)
    for rows in np.split(np.arange(50), [7, 7, 30]):
        sheet.add(images[rows], features[rows])
    order = np.argsort([min(np.linalg.norm(f - r) for r in real) for f in features])
    found = {name: kept[:, 0, 0, 0].tolist() for name, kept in sheet.images().items()}
    assert found["random"] == list(range(IMAGES))
    assert found["best"] == order[:IMAGES].tolist()
    assert found["worst"] == order[::-1][:IMAGES].tolist()


def test_fewer_images_are_all_kept():
    sheet = Sheet(np.zeros((3, 4)))
    sheet.add(np.zeros((2, 2, 2, 3), np.uint8), np.ones((2, 4)))
    assert {name: len(kept) for name, kept in sheet.images().items()} == {"random": 2, "best": 2, "worst": 2}
    sheet = Sheet(np.zeros((0, 4)))
    sheet.add(np.zeros((2, 2, 2, 3), np.uint8), np.ones((2, 4)))
    assert set(sheet.images()) == {"random"}


def test_no_batch_stays_in_memory_for_the_sake_of_an_image():
    sheet = Sheet(np.zeros((3, 4)))
    batch = np.zeros((40, 2, 2, 3), np.uint8)
    kept = weakref.ref(batch)
    sheet.add(batch, np.ones((40, 4)))
    del batch
    assert kept() is None and len(sheet.images()["best"]) == IMAGES
