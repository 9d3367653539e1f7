#pragma once

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <string>

#include "mpi/comm.hpp"

namespace reshard::test {

/// A folder of the ranks of a communicator, removed at the end.
class Scratch {
 public:
  explicit Scratch(const mpi::Comm& comm) : comm_(comm) {
    std::string name = (std::filesystem::temp_directory_path() / "reshard-XXXXXX").string();
    if (comm.rank() == 0 && ::mkdtemp(name.data()) == nullptr) std::abort();
    path_ = mpi::broadcast(comm, name, 0);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    clear();
    if (comm_.rank() == 0) std::filesystem::remove(path_);
  }

  [[nodiscard]] std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  /// Collective. Removes all that is in it.
  void clear() const {
    mpi::barrier(comm_);
    if (comm_.rank() == 0) {
      for (const auto& entry : std::filesystem::directory_iterator(path_)) {
        std::filesystem::remove_all(entry.path());
      }
    }
    mpi::barrier(comm_);
  }
  /// Names in it, in order, hidden ones too.
  [[nodiscard]] std::string names() const {
    std::set<std::string> sorted;
    for (const auto& entry : std::filesystem::directory_iterator(path_)) {
      sorted.insert(entry.path().filename().string());
    }
    std::string names;
    for (const std::string& name : sorted) names += name + " ";
    return names;
  }

 private:
  const mpi::Comm& comm_;
  std::string path_;
};

/// The bytes of all files below a folder, by their path in it.
inline std::map<std::string, std::string> tree(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    std::ifstream file(entry.path(), std::ios::binary);
    files[std::filesystem::relative(entry.path(), folder).string()] = {
        std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }
  return files;
}

/// The same without manifests, which tell of the source.
inline std::map<std::string, std::string> model_tree(const std::string& folder) {
  auto files = tree(folder);
  std::erase_if(files, [](const auto& file) {
    return std::filesystem::path(file.first).filename() == "manifest.json";
  });
  return files;
}

/// The first difference of two trees in words; "" when there is none.
inline std::string difference(const std::map<std::string, std::string>& a,
                              const std::map<std::string, std::string>& b) {
  for (const auto& [name, bytes] : a) {
    const auto other = b.find(name);
    if (other == b.end()) return name + " is missing in the second";
    if (bytes == other->second) continue;
    const auto at =
        std::mismatch(bytes.begin(), bytes.end(), other->second.begin(), other->second.end()).first;
    return name + " differs at byte " + std::to_string(at - bytes.begin()) + " of " +
           std::to_string(bytes.size()) + " and " + std::to_string(other->second.size());
  }
  for (const auto& [name, bytes] : b) {
    if (a.count(name) == 0) return name + " is missing in the first";
  }
  return "";
}

}  // namespace reshard::test
