"""The words that every room uses: errors, records and recipes. Standard library only."""
