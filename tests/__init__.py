"""The tests of jobproxy."""
