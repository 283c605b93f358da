// Package matrixtest holds what every implementation of a contract in package
// matrix must pass.
package matrixtest
