"""Bytes become pixels and facts: PNG, JPEG and DICOM; de-identification; fingerprints; letterboxing."""
