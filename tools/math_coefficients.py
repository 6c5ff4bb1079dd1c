#!/usr/bin/env python3
"""Coefficients of src/base/math_constants.h: minimax polynomials by Remez exchange in 40 digits, rounded to single.

Needs mpmath. Prints hexadecimal floats, lowest power first, and the relative error of the function before rounding.
"""
import struct

from mpmath import cos, exp, log, lu_solve, matrix, mp, mpf, pi, polyval, sign, sqrt

mp.dps = 40


def single(x):
    return struct.unpack("f", struct.pack("f", float(x)))[0]


def remez(function, weight, terms, low, high, rounds=12, points=800):
    """Sum of c_i x^i, i < terms, that minimises max |(polynomial - function) * weight| on [low, high]."""
    nodes = sorted((low + high) / 2 + (high - low) / 2 * cos(pi * mpf(i) / terms) for i in range(terms + 1))
    grid = [low + (high - low) * mpf(i) / points for i in range(points + 1)]
    for _ in range(rounds):
        system, right = matrix(terms + 1, terms + 1), matrix(terms + 1, 1)
        for row, x in enumerate(nodes):
            for power in range(terms):
                system[row, power] = x**power
            system[row, terms] = (-1) ** row / weight(x)
            right[row] = function(x)
        solution = lu_solve(system, right)
        coefficients = [solution[i] for i in range(terms)]
        error = [(polyval(coefficients[::-1], x) - function(x)) * weight(x) for x in grid]
        extrema = []   # the largest error of each run of one sign
        for x, e in zip(grid, error):
            if extrema and sign(extrema[-1][1]) == sign(e):
                if abs(e) > abs(extrema[-1][1]):
                    extrema[-1] = (x, e)
            else:
                extrema.append((x, e))
        while len(extrema) > terms + 1:
            extrema.pop(0 if abs(extrema[0][1]) < abs(extrema[-1][1]) else -1)
        if len(extrema) < terms + 1:
            break
        nodes = [x for x, _ in extrema]
    return coefficients, max(abs(e) for e in error)


def report(name, result):
    coefficients, error = result
    print(f"{name}: relative error {float(error):.3g}")
    for i, c in enumerate(coefficients):
        print(f"  {i}  {single(c).hex()}")


half = log(2) / 2 * mpf("1.0001")
report(
    "EXP_Q, q(r) = (exp(r) - 1 - r) / r^2",
    remez(
        lambda r: (exp(r) - 1 - r) / r**2 if abs(r) > mpf(10) ** -12 else mpf(1) / 2,
        lambda r: r**2 if abs(r) > 1e-9 else mpf("1e-18"),
        5, -half, half,
    ),
)
report(
    "LOG_P, p(f) = (log(1 + f) - f + f^2/2) / f^3",
    remez(
        lambda f: (log(1 + f) - f + f * f / 2) / f**3 if abs(f) > mpf(10) ** -8 else mpf(1) / 3,
        lambda f: f * f if abs(f) > 1e-6 else mpf("1e-12"),
        9, sqrt(mpf(1) / 2) - 1, sqrt(mpf(2)) - 1,
    ),
)
