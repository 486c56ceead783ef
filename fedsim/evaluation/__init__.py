"""What is measured of a student besides its score: a file for each kind; `exams` takes them all."""
