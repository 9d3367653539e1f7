#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "submit/tasks.hpp"

namespace reshard::submit {

/// What the user or the site wants of Slurm; what is empty is left to the site.
struct SlurmWish {
  std::string account, partition, qos, time, mem, constraint, mail;
  std::optional<std::uint64_t> nodes, ranks_per_node, array_limit;
  std::uint64_t requeue_limit = 5;
  std::vector<std::string> sbatch;  ///< further options of sbatch: "--exclusive"
  std::string container = "none";   ///< "apptainer:IMAGE", "pyxis:IMAGE", "none"
  std::vector<std::string> mounts;  ///< further paths that the container sees
  std::string pre_run;              ///< a shell command before reshard, inside the container
  std::string reshard;              ///< path of the program, in the image where there is one
};

/// One job: what the template needs beside the wishes.
struct Job {
  std::string name;                ///< also of the script and of its logs, unique
  std::string run, source;         ///< name and folder of the run
  std::string logs, save, folder;  ///< folder: where it was submitted
  std::vector<Task> tasks;
  /// Words of `reshard` that list the tasks when the job starts, instead of `tasks`, and which
  /// iterations these will be.
  std::vector<std::string> listing;
  std::string wish;
  std::optional<std::uint64_t> after;  ///< job that has to end before
  Estimate estimate;
  /// Paths outside of the container's image that the conversions need.
  std::vector<std::string> paths;
};

/// The script of a job, made of slurm/convert.sbatch.in; Error(usage) for values that would break
/// out of their line, Error(internal) for a template with other marks than those that it should
/// have.
std::string make_script(const Job& job, const SlurmWish& wish);

/// A word as a shell reads it back, whatever is in it.
std::string quoted(const std::string& word);
/// Only letters, digits, dots and dashes of a name, for files and jobs.
std::string plain_name(const std::string& name);
/// The lines "#SBATCH ..." of wishes that every job of a submission shares.
std::vector<std::string> shared_options(const SlurmWish& wish);
/// Kind and image of a container; Error(usage) for another word.
std::pair<std::string, std::string> container_of(const std::string& word);

}  // namespace reshard::submit
