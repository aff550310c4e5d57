"""Ranks the held-out items of every user, or compares two such evaluations.

python evaluate.py --model_dir=models/ml-1m --data_dir=data/ml-1m --output=metrics.json
python evaluate.py --compare=a/metrics.json,b/metrics.json --output=comparison.json

--output also writes metrics.users.parquet beside metrics.json: one row for each user, which --compare reads.
--report=report.html writes one page about the model, beside the popularity baseline; --compare_with=other/metrics.json
adds a second run.
"""

from bert4rec_tf.commands.entry_point import start

if __name__ == "__main__":
    start("evaluate")
