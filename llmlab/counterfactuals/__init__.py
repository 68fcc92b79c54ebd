"""What would have happened: reruns, branches, trees and comparisons of answers, over values and a backend."""
