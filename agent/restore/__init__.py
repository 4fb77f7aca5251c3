"""The restore path: manifest -> plan -> download -> decompress -> write -> finish."""
