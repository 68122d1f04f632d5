"""Drawn pixels that a network can learn in a minute: a bright line on noise, broken in the positives."""

import numpy as np
import psycopg2
import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # threads that wait for each other are slow where others compute too


@pytest.fixture(scope="session")
def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """pixels: uint8, (96, 32, 32); labels: int64, (96,); boxes: float32, (96, 1, 4), around the breaks."""
    rng = np.random.default_rng(0)
    labels = np.arange(96) % 2
    pixels = rng.integers(0, 40, (96, 32, 32)).astype(np.uint8)
    boxes = np.zeros((96, 1, 4), np.float32)
    for image, label, box in zip(pixels, labels, boxes[:, 0], strict=True):
        column = rng.integers(10, 22)
        image[2:30, column - 3 : column + 3] = 220
        if label:
            row = rng.integers(8, 22)
            image[row : row + 4, column - 4 : column + 4] = 20
            box[:] = np.array([column - 4, row, column + 4, row + 4]) / 32
    return pixels, labels, boxes


@pytest.fixture(scope="module")
def storage_url(create_database) -> str:
    url = create_database()
    with (
        psycopg2.connect(url.replace("postgresql+psycopg2", "postgresql")) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("CREATE SCHEMA optuna")
    connection.close()
    return url
