// Tells, for each rank of an MPI job, its number, how many there are, its host, and that all of them can talk.
// usage: mpi-ranks [EXIT CODE]
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

enum { LONG_MESSAGE = 1 << 18 }; // doubles: 2 MiB, which ranks on one host pass on in another way than a short one

int main(int argc, char **argv) {
  int rank, size, length;
  char host[MPI_MAX_PROCESSOR_NAME];
  MPI_Init(&argc, &argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  MPI_Get_processor_name(host, &length);

  double *mine = malloc(LONG_MESSAGE * sizeof *mine), *sum = malloc(LONG_MESSAGE * sizeof *sum);
  for (int i = 0; i < LONG_MESSAGE; i++)
    mine[i] = rank + 1;
  MPI_Allreduce(mine, sum, LONG_MESSAGE, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);

  printf("rank %d of %d on %s, sum %g\n", rank, size, host, sum[LONG_MESSAGE - 1]);
  fflush(stdout);
  MPI_Finalize();
  return argc > 1 ? atoi(argv[1]) : 0;
}
