"""Turns an interaction log into masked instances: sources read, engines sort, stages write."""
