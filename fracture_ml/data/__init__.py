"""From stored radiographs to what a network learns from: labels, patient-proof splits, pixel cache, augmentation."""
