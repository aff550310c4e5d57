"""Trains BERT4Rec on a data directory.

python train.py --data_dir=data/ml-1m --model_dir=models/ml-1m
"""

from bert4rec_tf.commands.train import run

if __name__ == "__main__":
    run()
