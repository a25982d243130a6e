"""What a scene can become: knows no camera and no tracker."""
