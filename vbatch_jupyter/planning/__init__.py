"""The order in which the requests of a batch run, and which of them share an answer; pure."""
