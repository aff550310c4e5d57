"""The model as it is served: the SavedModel, its versions, and the gate before a new one."""
