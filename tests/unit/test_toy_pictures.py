from __future__ import annotations

import numpy as np
import pytest
import torch

from scripts.toy import world
from scripts.toy.pictures import ON_OBJECT, Pictures, Pool, Size, crop, object_error, picture_distance, psnr_db

SIZE = Size(2, 9, 64, 96)


@pytest.fixture(scope="module")
def ball() -> world.Clip:
    return world.render(next(iter(world.combinations(world.Kind.BALL, held_out=False))))


def test_a_vanished_ball_costs_more_than_noise_of_the_same_psnr(ball: world.Clip):
    pictures = Pictures.of([ball])
    backdrop = pictures.video.median(dim=2, keepdim=True).values.expand_as(pictures.video)
    vanished = torch.where(pictures.mask[:, None], backdrop, pictures.video)
    deviation = (vanished - pictures.video).square().mean().sqrt()
    noisy = pictures.video + deviation * torch.randn(vanished.shape, generator=torch.Generator().manual_seed(0))
    assert psnr_db(vanished, pictures.video) == pytest.approx(psnr_db(noisy, pictures.video), abs=1)
    assert picture_distance(vanished, pictures, 1.0) > 3 * picture_distance(noisy, pictures, 1.0)
    assert object_error(vanished, pictures) > 3 * object_error(noisy, pictures)


def test_most_crops_hold_a_part_of_the_object(ball: world.Clip):
    rng = np.random.default_rng(0)
    pieces = [crop(ball, SIZE, rng) for _ in range(200)]
    assert all(frames.shape == (9, 64, 96, 3) and mask.shape == (9, 64, 96) for frames, mask in pieces)
    assert np.mean([mask.any() for _, mask in pieces]) > ON_OBJECT


def test_crops_depend_on_seed_and_step_alone():
    pool = Pool(0, size=3)
    pool.crops(4, SIZE)
    later, again, other = pool.crops(5, SIZE), Pool(0, size=3).crops(5, SIZE), Pool(1, size=3).crops(5, SIZE)
    assert torch.equal(later.video, again.video)
    assert torch.equal(later.mask, again.mask)
    assert not torch.equal(later.video, other.video)
