"""Metrics with intervals, operating points, calibration, the gate, drift, figures. Arithmetic only."""
