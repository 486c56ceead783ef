"""What is measured of a student besides its score: a file for each kind, and `exams`, which takes them all."""
