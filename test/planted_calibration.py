"""Calibrations of cameras that are known exactly, and what these cameras see."""

from __future__ import annotations

import cv2
import numpy as np

from cone_perception.positions.camera import CameraInfo

SIZE = (1280, 720)
K = np.array([[700.0, 0, 640], [0, 705, 360], [0, 0, 1]])
P = np.array([[690.0, 0, 650, 0], [0, 690, 355, 0], [0, 0, 1, 0]])
TURN = cv2.Rodrigues(np.array([0.02, -0.03, 0.01]))[0]
LENSES = {
    'none': ('plumb_bob', (0.0,) * 5),
    'barrel': ('plumb_bob', (-0.3, 0.1, 1e-3, -5e-4, -0.014)),
    'four numbers': ('plumb_bob', (-0.2, 0.05, 1e-3, 2e-3)),
    'pincushion': ('plumb_bob', (0.3, 0.05, 0.0, 0.0, 0.0)),
    'rational': ('rational_polynomial', (0.5, 0.1, 1e-4, 1e-4, 0.01, 0.8, 0.2, 0.03)),
    'thin prism': ('rational_polynomial', (0.5, 0.1, 0, 0, 0.01, 0.8, 0.2, 0.03, 1e-3, 0, 1e-3, 0)),
    'tilted': ('rational_polynomial', (-0.1, *(0.0,) * 11, 0.02, -0.01)),
    'fisheye': ('equidistant', (0.05, -0.01, 0.003, -0.001)),
    'plain fisheye': ('equidistant', (0.0,) * 4),
}


def camera_info(lens='barrel', k=K, r=TURN, p=P, size=SIZE):
    model, d = LENSES[lens]
    return CameraInfo(*size, model, d, *(tuple(np.ravel(part).tolist()) for part in (k, r, p)))


def taken(info, rays):
    """(N, 3) rays of the rectified camera -> (N, 2) pixels of the picture, by OpenCV alone."""
    turn = cv2.Rodrigues(np.reshape(info.r, (3, 3)).T)[0]
    fisheye = info.distortion_model == 'equidistant'
    project = cv2.fisheye.projectPoints if fisheye else cv2.projectPoints
    k, d = np.reshape(info.k, (3, 3)), np.array(info.d, np.float64)
    return project(rays.reshape(-1, 1, 3), turn, np.zeros(3), k, d)[0].reshape(-1, 2)


def rays_within(reach, rng, count=2000):
    """Rays up to a distance from the axis at z = 1."""
    far, angle = reach * np.sqrt(rng.random(count)), rng.uniform(0, 2 * np.pi, count)
    return np.column_stack([far * np.cos(angle), far * np.sin(angle), np.ones(count)])


ZED = [f'/zed/zed_node/{eye}/color/rect/image' for eye in ('left', 'right')]
RAW = [f'/camera/{eye}/image_raw' for eye in ('left', 'right')]


def pair(lens='barrel', zero_disparity=True, rng_seed=3):
    """A rig of two turned eyes 0.12 m apart; returns camera_info of both, and how they stand.

    The rotation and translation take points from the left eye's camera to the right eye's.
    """
    rng = np.random.default_rng(rng_seed)
    turn = cv2.Rodrigues(rng.normal(0, 0.01, 3))[0]
    move = turn @ np.array([-0.12, 0.001, -0.0015])
    ks = [K + np.diag(rng.normal(0, 3, 3) * [1, 1, 0]) for _ in range(2)]
    ks[1][0, 2] += 0 if zero_disparity else 40.0
    model, d = LENSES[lens]
    fisheye = model == 'equidistant'
    rectify = cv2.fisheye.stereoRectify if fisheye else cv2.stereoRectify
    lens_d = np.array(d)
    flags = cv2.CALIB_ZERO_DISPARITY if zero_disparity else 0
    given = {'flags': flags} if fisheye else {'flags': flags, 'alpha': 0}
    turns_and_ps = rectify(ks[0], lens_d, ks[1], lens_d, SIZE, turn, move[:, None], **given)[:4]
    infos = [
        camera_info(lens, k, r, p)
        for k, r, p in zip(ks, turns_and_ps[:2], turns_and_ps[2:], strict=True)
    ]
    return infos, turn, move


def eyes(baseline_m=0.12, fx=690.0, cy=355.0, **more):
    p = P.copy()
    p[0, 0] = p[1, 1] = fx
    p[1, 2], p[0, 3] = cy, -fx * baseline_m
    return camera_info(), camera_info(p=p, **more)
