"""Decisions on validation scans, locked before the test: operating point, prediction sets, fallback, fusion."""
