"""The interface for notebooks: records from any table, training, evaluation, and recommendations as a data frame."""
