"""Writes a SavedModel for TF Serving, or withdraws the newest one.

python export.py --model_dir=models/ml-1m --export_dir=exports/ml-1m
python export.py rollback --export_dir=exports/ml-1m
"""

from bert4rec_tf.commands.entry_point import start

if __name__ == "__main__":
    start("export")
