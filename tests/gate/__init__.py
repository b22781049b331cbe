"""Tests of src.gate."""
