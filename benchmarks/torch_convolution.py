"""Times torch's convolutions for `benchmarks.convolution`, in a Python that has torch.

A child process: reads one line of JSON per convolution, answers with one line of seconds. It needs
nothing but torch, so that the two libraries need not share an environment.
"""

from __future__ import annotations

import json
import sys
import time

import torch


def prepared(shape: list[int], features: int, kernel: int, stride: int, padding: int):
    """Images, weights and the gradient of the result, in torch's faster layout for a CPU."""
    b, y, x, c = shape
    images = torch.randn(b, c, y, x).to(memory_format=torch.channels_last).requires_grad_()
    weights = torch.randn(features, c, kernel, kernel)
    weights = weights.to(memory_format=torch.channels_last).requires_grad_()
    with torch.no_grad():
        result = torch.nn.functional.conv2d(images, weights, stride=stride, padding=padding)
    return images, weights, torch.randn_like(result)


def main() -> None:
    """Answers until the input ends."""
    made: dict[str, tuple] = {}
    torch.set_num_threads(int(sys.argv[1]))
    for line in sys.stdin:
        asked = json.loads(line)
        key = json.dumps(asked["convolution"])
        if key not in made:
            made.clear()
            made[key] = prepared(**asked["convolution"])
        images, weights, gradient = made[key]
        options = {
            "stride": asked["convolution"]["stride"],
            "padding": asked["convolution"]["padding"],
        }
        began = time.perf_counter()
        if asked["backward"]:
            result = torch.nn.functional.conv2d(images, weights, **options)
            torch.autograd.grad(result, (images, weights), gradient)
        else:
            with torch.no_grad():
                torch.nn.functional.conv2d(images, weights, **options)
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main()
