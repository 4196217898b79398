"""Rice, Wong & Kolter 2020, "Overfitting in adversarially robust deep learning"."""
